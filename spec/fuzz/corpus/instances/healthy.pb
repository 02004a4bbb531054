
+
ausers	10.0.0.10 ©F*http://h:9001