"""The attacks whose worst case is AutoAttack's (Croce & Hein 2020), a file each."""
