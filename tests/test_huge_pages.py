import os
import subprocess
import sys
from pathlib import Path

import pytest

# prints whether the process may use huge pages: at start, disabled, enabled
STATES = """
import re
from tljax.devices import huge_pages
def state():
    print(*re.findall(r"THP_enabled:\\s*(\\d)", open("/proc/self/status").read()))
state()
huge_pages.disable()
state()
huge_pages.enable()
state()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such setting")
@pytest.mark.parametrize(
    ("asked", "states"),
    [("glibc.malloc.hugetlb=1", ["1", "0", "1"]), ("", ["1", "1", "1"])],
    ids=["asked for", "not asked for"],
)
def test_huge_pages_come_later_where_they_were_asked_for(asked, states):
    if "THP_enabled" not in Path("/proc/self/status").read_text():
        pytest.skip("this kernel does not say whether a process gets huge pages")
    environment = os.environ | {"GLIBC_TUNABLES": asked}
    command = [sys.executable, "-c", STATES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == states
