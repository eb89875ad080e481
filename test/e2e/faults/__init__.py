"""A campaign of random faults: a load, a nemesis, and a judge that trusts neither (scripts/faults)."""
