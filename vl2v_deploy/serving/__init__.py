"""A local teacher behind HTTP: OpenAI-style embeddings and KServe v2, one model, many clients."""
