"""IP-Adapters: pictures as prompts, attended to beside the text (https://arxiv.org/abs/2308.06721)."""
