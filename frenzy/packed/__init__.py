"""Networks as small on disk as they are said to be: `pack("SavedModel/", "f.safetensors")`, `unpack("f.safetensors", "Folder/")`.

The size rule. A tensor takes what its cheapest form takes in frenzy/accounting/conventions/forms.py, the accountant's own choice,
its codes filled up to whole bytes; the header takes 4 KiB and 64 bytes a tensor at most (a long list of class names aside).

Which figure that is. Logits are to be the same to the last bit, so the file holds what the SavedModel holds: batch normalisation
unfolded, and channels that are known to be zero. The convention `packed` counts just these, and the file takes no more than it
says, but for whole bytes. For every dot product that is what `micronet` charges too; `claim.terms` names and adds up the
difference to its total.
"""

from frenzy.packed.claim import Term, allowed_header, terms
from frenzy.packed.codes import PackedError
from frenzy.packed.container import Sizes
from frenzy.packed.network import build, pack, read_packed, unpack, verify

__all__ = ["PackedError", "Sizes", "Term", "allowed_header", "build", "pack", "read_packed", "terms", "unpack", "verify"]
