"""Model families: how each architecture encodes prompts, evaluates its network and decodes latents."""
