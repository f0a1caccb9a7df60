"""A name gives a model with a head: keras.applications, .keras files, runs, KerasHub."""
