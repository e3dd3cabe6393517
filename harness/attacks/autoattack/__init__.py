"""The attacks of AutoAttack (Croce and Hein 2020), and their worst case for each image."""
