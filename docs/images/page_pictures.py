"""Draw the pictures of the pages, from the names that the code of each page makes.

``PAGE_PICTURES=docs/images pytest -n 2 tests/test_docs_examples.py`` runs the pages and draws all pictures anew.
"""

import draw_inputs
import draw_results
import draw_running
from drawing import PICTURES, save

__all__ = ["PICTURES", "draw_inputs", "draw_results", "draw_running", "save"]
