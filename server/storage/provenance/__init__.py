"""Content credentials (C2PA): who has made a picture, of what, signed into the file."""
