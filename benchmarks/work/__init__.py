"""What is measured; runs in a process of its own, with bellis or with a peer, and imports no other part of the tool."""
