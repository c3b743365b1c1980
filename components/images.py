"""Placeholders of the two images: `mmenc compile --image I --gpu-image G` puts in real ones, tagged by git revision."""

CPU = "mmenc-cpu:REVISION"
GPU = "mmenc-gpu:REVISION"
