"""How Butler reads what stands in for LSST's classes."""

from lsst.daf.butler import FormatterV2


class DefectsFormatter(FormatterV2):
    """Tables of defects in either form."""

    supported_extensions = frozenset({".fits", ".ecsv"})
    can_read_from_local_file = True

    def read_from_local_file(self, path, component=None, expected_size=-1):
        return self.file_descriptor.storageClass.pytype.readFits(path)
