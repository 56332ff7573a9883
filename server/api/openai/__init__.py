"""The OpenAI Images dialect."""
