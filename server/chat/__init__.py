"""From messages to the model's prompt, and from the model's text back to an answer."""
