"""What the end-to-end tests are made of: server processes, a faulty network, and clients that smooth nothing over."""
