"""What the server is about: calls, generations, assets, jobs, and the ports to the outside."""
