"""Control networks: what they make of a picture is added inside the denoising network, for the rows that ask for it."""
