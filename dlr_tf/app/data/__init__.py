"""Files become batches: images, folders, CSV files, data sets, splits, order and augmentation.

May import `terminal`, `training` and `core`. Other rooms import what is below and nothing else.
"""

from dlr_tf.app.data.digits import load_digits
from dlr_tf.app.data.image_data import ImageData, class_table
from dlr_tf.app.data.images import (
    ENDINGS,
    failed_image,
    read_image,
    require_pillow,
    resize,
)
from dlr_tf.app.data.labelled_files import LabelledFiles
from dlr_tf.app.data.order import Parts
from dlr_tf.app.data.predicted_texts import STDIN, TextToPredict, named_texts
from dlr_tf.app.data.scan import list_images
from dlr_tf.app.data.sources import find, load
from dlr_tf.app.data.targets import Columns
from dlr_tf.app.data.texts import LabelledTexts, are_texts, shown
