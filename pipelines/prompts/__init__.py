"""What people write in prompts, read: weights, breaks, changes over the steps, LoRA tags, learned words. No torch."""
