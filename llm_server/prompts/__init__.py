"""How a conversation becomes the text that a language model reads."""
