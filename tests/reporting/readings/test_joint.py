"""What is said of joint attention."""

from entropylab.reporting.readings import joint

from .said import NAN, said


def test_joint_attention() -> None:
    assert "82% to 92% of their weight" in said(joint.mass([0.82, 0.92, NAN]))
    assert "91% comes from within the image and 6%" in said(joint.chain(4.66, 0.28, 4.24))
    assert "so it holds both ways" in said(joint.law(0.05, 0.06, 0.1))
    assert "text among the keys, and not the image" in said(joint.law(0.05, 0.6, 0.1))
    assert "does not hold there either" in said(joint.law(0.5, 0.6, 0.1))
    assert "coincidence" in said(joint.law(0.5, 0.06, 0.1))
    assert "82.8 to 97.5% of all keys" in said(joint.fixed_text([0.828, 0.975]))
