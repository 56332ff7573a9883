"""What shapes a picture beside the model: LoRAs, control networks, IP-Adapters, masks, upscalers; each acts on its own rows only."""
