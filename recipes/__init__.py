"""How the embedded weights were trained. These programs stay in the repository; the wheel has the weights alone."""
