"""The demo's data: EmojiDG, drawings without labels, and what the built-in teacher learned. No code."""
