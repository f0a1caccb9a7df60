from dlr_tf.cli import main

raise SystemExit(main())
