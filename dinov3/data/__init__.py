"""From a data set's name to training batches on the device.

Begin with ``loader.py`` (the stream) and ``slot_writer.py`` (one batch's crops); ``sources/`` is the list of data sets,
``storage/`` what they are made with. Imports config, contracts and distributed only.
"""
