"""Supernets beside separately trained models and other baselines, over several seeds.

May import: all but the commands.
"""
