"""What only a person can say of a model; a recipe's table `[card]`, and what `medexport card --author` reads."""

from __future__ import annotations

from medinfer.schema import Schema, schema


@schema
class Card(Schema):
    """What only the author of a model can say of it: plain text for its card, `medexport card`."""

    intended_use: str = ""
    users: str = ""
    population: str = ""
    out_of_scope: str = ""
    reference_standard: str = ""
    data_source: str = ""
    data_licence: str = ""
    limitations: str = ""
    fairness: str = ""
    monitoring: str = ""
    contact: str = ""
