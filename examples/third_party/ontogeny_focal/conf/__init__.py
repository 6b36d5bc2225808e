"""Named variants of `objective=focal`, reached as pkg://ontogeny_focal.conf."""
