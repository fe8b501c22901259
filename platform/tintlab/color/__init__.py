"""The colour science: sRGB to CIE Lab and back, and how ab becomes discrete bins."""
