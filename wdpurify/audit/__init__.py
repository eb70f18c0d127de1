"""The label audit: which column of an auxiliary set is fit to purify of, and whether features have forgotten it.

``from wdpurify.audit import audit, compare, feature_map, leakage``, or ``python -m wdpurify.audit --help`` and
``python -m wdpurify.audit.features --help``.
"""

from ._optional import INSTALL

try:
    import numpy
    import scipy
    import sklearn
except ImportError as error:
    raise ImportError(f"the label audit needs scikit-learn and SciPy: {INSTALL}") from error

from ._association import Association as Association
from ._audit import audit as audit
from ._columns import Column as Column
from ._compare import Comparison as Comparison
from ._compare import compare as compare
from ._feature_map import FeatureMap as FeatureMap
from ._feature_map import feature_map as feature_map
from ._leakage import Leakage as Leakage
from ._leakage import Leakages as Leakages
from ._leakage import leakage as leakage
from ._report import Audit as Audit
from ._transfer import Transfer as Transfer
from ._verdict import ColumnAudit as ColumnAudit
