"""``python -m lpft.flower FOLDER`` writes a Flower app."""

from lpft.flower.app_folder import main

if __name__ == "__main__":
    main()
