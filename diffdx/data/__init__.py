"""What an image, a label and a patient are: readers, splits by patient, built-in phantoms."""

from diffdx.data.dataset import Dataset as Dataset
from diffdx.data.dataset import Record as Record
from diffdx.data.images import read_image as read_image
from diffdx.data.phantoms import PhantomSpec as PhantomSpec
from diffdx.data.phantoms import draw_phantom as draw_phantom
from diffdx.data.readers import open_dataset as open_dataset
from diffdx.data.readers import open_inputs as open_inputs
from diffdx.data.splits import ROLES as ROLES
from diffdx.data.splits import align_splits as align_splits
from diffdx.data.splits import check_splits as check_splits
from diffdx.data.splits import load_splits as load_splits
from diffdx.data.splits import make_splits as make_splits
from diffdx.data.splits import save_splits as save_splits
