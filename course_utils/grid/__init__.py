"""The vmapped JAX grid."""
