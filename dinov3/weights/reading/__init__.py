"""Bytes that nobody vouches for, to tables of tensors: nothing in them is imported, called or believed.

Begin with ``pickle_records.py`` (opcodes to plain records), then ``torch_file.py`` and ``dcp_folder.py`` on top of it.
Every size is compared with the file's before memory is asked for. ``dinov3.weights`` and the DA3 teacher import it; it
imports ``dinov3.weights.files`` for the Depth Anything 3 reader only.
"""
