"""What a run leaves: scores, report.json, report.html, and files that are written atomically.

May import `terminal`, `training` and `core`. Other rooms import what is below and nothing else.
A kind of target is one file here: `evaluation` for one class of several, `labels`, `numbers`.
"""

from dlr_tf.app.results.card import card_of
from dlr_tf.app.results.evaluation import Evaluation, OneClass
from dlr_tf.app.results.files import (
    WriteError,
    append_text,
    atomic_write,
    check_new,
    check_new_file,
    check_output_folder,
    check_writable,
    locked,
    make_folder,
    remove_partial_files,
    write_text,
)
from dlr_tf.app.results.kinds import target_of
from dlr_tf.app.results.labels import SeveralLabels
from dlr_tf.app.results.page import page_of, require_jinja
from dlr_tf.app.results.report import (
    describe_groups,
    json_text,
    scores_name,
    versions,
    write_report,
)
from dlr_tf.app.results.target import Target
from dlr_tf.app.results.thumbnails import examples_at
