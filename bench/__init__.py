"""The benchmark: frozen nets, every rival on the same net, equal results before any clock starts."""
