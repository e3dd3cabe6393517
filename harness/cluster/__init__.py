"""Ray: what a study's work is spread over, from this process alone to many machines. No other wing knows it.

``connection`` finds or starts the cluster; of one started here the workers are ``forked`` from a
``forkserver``. ``nodes`` sees that its machines can work on one study together. ``workers`` says what there
is; its ``map`` spreads ordinary functions over a ``pool`` of actors. ``sweep`` runs trainings side by side
over Ray Tune, each as a ``trial`` of one ``rank`` or a ``gang`` of them. What is computed lies in wings
below, in functions that know nothing of this.
"""
