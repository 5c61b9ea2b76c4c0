"""The audit before training: leakage, duplicates and shortcuts in a set of images.

`audit.subject` is what is audited, `audit.run` asks all questions, `audit.sheet` writes answers.
Only the answers are imported here, since whoever reads results needs no more. Research use only,
not a medical device.
"""

from diffdx.data.audit.findings import Audit as Audit
from diffdx.data.audit.findings import Check as Check
from diffdx.data.audit.findings import audit_line as audit_line
from diffdx.data.audit.findings import read_audit as read_audit
