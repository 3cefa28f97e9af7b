"""Preconditioners: positive definite operators with their inverse square roots."""
