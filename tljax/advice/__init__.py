"""Evidence for the choice of a source model and of a scenario.

`transferability` and `neighbours` score frozen features of the target's training images,
`similarity` compares them with the source's. `sources` reads the names of source models, `ranking`
scores and ranks them, and `source_choice` chooses among them.
"""
