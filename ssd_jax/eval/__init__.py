"""How good pictures are: image features, distances between sets of pictures, retrieval, the verifier's own opinion."""
