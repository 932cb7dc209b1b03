"""The service: lets workers elsewhere take blocks of a run, over HTTP; and what such workers are made of."""
