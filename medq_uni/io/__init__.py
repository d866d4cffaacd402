"""Files <-> :class:`~medq_uni.image.MedicalImage`: DICOM, NIfTI, PNG and TIFF."""
