"""What shapes a picture beside the model: LoRAs, control networks, IP-Adapters, upscalers; each acts on its own rows only."""
