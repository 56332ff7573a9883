"""From noise to latents, one image at a time: samplers by name, one solver per row, one generator per image."""
