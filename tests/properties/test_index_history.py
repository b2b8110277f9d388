"""Whatever was done to parts and index, in whichever order, the rows are those of the parts."""

import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sweep.index import INDEX, read_rows, refresh
from sweep.parts import write_part

NAMES = st.sampled_from(["a", "b", "c", "d"])


class History(RuleBasedStateMachine):
    """A folder of parts beside what it should hold."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) / "trials"
        self.folder.mkdir()
        self.index = self.folder.with_name(INDEX)
        self.rows, self.versions, self.old_index = {}, 0, b""

    def teardown(self):
        shutil.rmtree(self.folder.parent)

    @rule(name=NAMES, column=st.sampled_from(["x", "y"]))
    def write(self, name, column):
        self.versions += 1
        row = {"trial_id": name, column: self.versions}
        write_part(self.folder / f"{name}.parquet", pa.Table.from_pylist([row]))
        self.rows[name] = row

    @rule(name=NAMES)
    def delete(self, name):
        (self.folder / f"{name}.parquet").unlink(missing_ok=True)
        self.rows.pop(name, None)

    @rule(tolerated=st.integers(0, 3))
    def refresh(self, tolerated):
        refresh(self.folder, tolerated)

    @rule()
    def keep_index(self):
        self.old_index = self.index.read_bytes() if self.index.exists() else b""

    @rule()
    def bring_back_an_old_index(self):
        self.index.write_bytes(self.old_index)

    @rule(share=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
    def damage_index(self, share, mask):
        if self.index.exists() and (data := bytearray(self.index.read_bytes())):
            data[int(share * len(data))] ^= mask
            self.index.write_bytes(data)

    @rule(share=st.floats(0, 1))
    def cut_index(self, share):
        if self.index.exists():
            data = self.index.read_bytes()
            self.index.write_bytes(data[: int(share * len(data))])

    @rule()
    def lose_index(self):
        self.index.unlink(missing_ok=True)

    @invariant()
    def the_rows_are_those_of_the_parts(self):
        read = [{k: v for k, v in row.items() if v is not None} for row in read_rows(self.folder).to_pylist()]
        assert read == [self.rows[name] for name in sorted(self.rows)]
        wanted = [{k: v for k, v in row.items() if k != "y"} for row in read]
        some = read_rows(self.folder, ["trial_id", "x"]).to_pylist()
        assert [{k: v for k, v in row.items() if v is not None} for row in some] == wanted


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
