"""The authorization rules: whether an event is allowed by a set of state.

- `needed`: which state an event must cite.
- `rules`: the rules in the order of the spec; `membership`, `power_levels` and `third_party_invites` hold its big ones.
- `numbering`: the number of a rule in the text of each room version.

Comments cite the rules by their number in room version 12.

Spec: rooms/v12, "Authorisation rules", and the same section of older versions.
"""
