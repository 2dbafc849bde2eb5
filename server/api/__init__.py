"""The OpenAI-style HTTP API: conversion between JSON and the service's requests and events."""
