"""SAM's family of encoders: fast computation, the cache of embeddings, published weights."""
