"""What the server and the engine say to each other: frozen structs, one error tree, no torch."""
