"""Config groups, reached as pkg://ontogeny_conf."""
